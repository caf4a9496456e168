"""Messages cross a socket whole or not at all."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from workers.channel import MAX_JSON, Channel, ChannelClosed, Message


@pytest.fixture
def ends():
    mine, its = socket.socketpair()
    with mine, its:
        yield Channel(mine), Channel(its)


def test_a_message_arrives_as_it_was_sent_with_its_blob(ends):
    mine, its = ends
    mine.send("preview", {"w": 3, "text": "ä\u2028\n", "nothing": None}, b"\x00\xff" * 500)
    assert its.receive() == Message("preview", {"w": 3, "text": "ä\u2028\n", "nothing": None}, b"\x00\xff" * 500)


def test_messages_of_several_threads_do_not_mix(ends):
    mine, its = ends
    senders = [
        threading.Thread(target=lambda n=n: [mine.send("n", {"n": n}, bytes([n]) * 30_000) for _ in range(20)])
        for n in range(4)
    ]
    for sender in senders:
        sender.start()
    heard = [its.receive() for _ in range(80)]
    assert all(message.blob == bytes([message.facts["n"]]) * 30_000 for message in heard)
    for sender in senders:
        sender.join()


def test_the_end_of_the_stream_is_said_even_in_the_middle_of_a_message(ends):
    mine, its = ends
    mine._sock.sendall(struct.pack(">II", 100, 0) + b"[")
    mine.close()
    with pytest.raises(ChannelClosed):
        its.receive()
    with pytest.raises(ChannelClosed):
        its.send("late", {})


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 8,
        struct.pack(">II", 3, 0) + b"[1]",
        struct.pack(">II", 2, 0) + b"{}",
        struct.pack(">II", 4, 0) + b"nope",
        struct.pack(">II", 7, 0) + b'["a",1]',
    ],
)
def test_nonsense_closes_the_channel_instead_of_being_understood(ends, raw):
    mine, its = ends
    mine._sock.sendall(raw)
    with pytest.raises(ChannelClosed):
        its.receive()


@pytest.mark.parametrize("facts", [{"fraction": float("nan")}, {"text": "x" * MAX_JSON}])
def test_what_the_other_side_could_not_read_is_not_sent(ends, facts):
    mine, its = ends
    with pytest.raises(ValueError, match=r"too big|JSON compliant"):
        mine.send("progress", facts)
    mine.send("next", {})
    assert its.receive().word == "next"


def test_a_peer_that_reads_nothing_does_not_block_a_sender_for_ever():
    mine, its = socket.socketpair()
    with mine, its:
        channel = Channel(mine, send_timeout_s=0.2)
        with pytest.raises(ChannelClosed):
            channel.send("order", {}, b"x" * 4_000_000)
