"""The Celery app that doorbells travel through to the workers."""

from __future__ import annotations

import ssl
from typing import Any

from celery import Celery

from framewright.broker import TRANSPORT, Attention
from framewright.doorbells import QUEUES
from framewright.settings import Settings


def celery_app(settings: Settings) -> Any:
    """The Celery app of workers (`celery.Celery`, which ships no types).

    Start workers with `-P threads -c 1 --without-gossip --without-mingle --without-heartbeat`.
    """
    url = settings.redis_url.get_secret_value()
    app = Celery("framewright", broker=url, set_as_current=False, fixups=[])
    app.conf.update(
        # Authority lives in Postgres, so a redelivered doorbell would be meaningless.
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_backend=None,
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        task_queues={name: {"routing_key": name} for name in QUEUES},
        task_default_queue="cpu",
        task_create_missing_queues=False,
        task_publish_retry=False,
        task_send_sent_event=False,
        # A busy worker leaves doorbells for its neighbours.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_detect_quorum_queues=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_transport=TRANSPORT,
        # kombu would speak TLS to a `rediss` URL without looking at the certificate.
        broker_use_ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED} if url.startswith("rediss:") else None,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        # Workers outlive any outage of Redis: they claim without doorbells.
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        # Without socket_timeout a half-open or hung Redis blocks a call for ever.
        broker_transport_options={
            "socket_timeout": 5,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "global_keyprefix": settings.redis_prefix,
            # Nothing is lost with a doorbell, so nobody keeps a copy until a worker has answered it.
            "ack_emulation": False,
            # One list per queue instead of four, asked every 3 s instead of every second: a tenth of the idle bytes.
            "priority_steps": [0],
            "polling_interval": 3,
        },
    )
    app.steps["consumer"].add(Attention)
    return app
