"""What a client may say on a socket, checked as strictly as a request's body."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from api import strict
from framewright.errors import BadRequest, FieldError, InvalidParams
from framewright.params import Strict, validation_fields

MAX_TOPICS = 1000
Topic = Annotated[str, Field(max_length=64)]
Topics = Annotated[list[Topic], Field(min_length=1, max_length=MAX_TOPICS)]
MessageId = Annotated[int, Field(ge=0, le=2**53)] | Annotated[str, Field(max_length=64)] | None


class Auth(Strict):
    op: Literal["auth"]
    ticket: Annotated[str, Field(max_length=256)]


class Subscribe(Strict):
    """`after`: for a job the `seq` it is known up to, for `tenant` the `at` of the last message."""

    op: Literal["subscribe"]
    id: MessageId = None
    topics: Topics
    after: Annotated[
        dict[Topic, Annotated[int, Field(ge=0, le=2**53)] | Annotated[str, Field(max_length=40)]],
        Field(default_factory=dict),
    ]
    previews: bool = False
    keep_open: bool = False


class Unsubscribe(Strict):
    op: Literal["unsubscribe"]
    id: MessageId = None
    topics: Topics


class Ping(Strict):
    op: Literal["ping"]
    id: MessageId = None


Message = Auth | Subscribe | Unsubscribe | Ping
_CLIENT: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="op")])


def parse(text: str) -> Message:
    """The message; `BadRequest` or `InvalidParams` says what is wrong with it without repeating it."""
    document: Any = strict.loads(text.encode("utf-8", "surrogatepass"))
    try:
        return _CLIENT.validate_python(document)
    except ValidationError as error:
        fields = validation_fields(error)
        raise InvalidParams(fields[0].detail, fields=fields) from None


def reason(error: BadRequest | InvalidParams) -> str:
    """A close reason: at most 123 bytes, as RFC 6455 has it."""
    first: FieldError | None = error.fields[0] if error.fields else None
    text = f"{first.pointer or '/'}: {first.detail}" if first else error.detail
    return text.encode()[:120].decode("utf-8", "ignore")
