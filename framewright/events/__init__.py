"""Live fan-out over Redis: pokes, progress and previews in one capped stream, cancel hints by pub/sub.

Nothing here is durable and nothing may depend on its arrival: events live in Postgres, a poke only says "look there".
"""

from framewright.events.hints import HintListener
from framewright.events.publisher import Live
from framewright.events.reader import last_preview, read_live
from framewright.events.wire import LiveEntry

__all__ = ["HintListener", "Live", "LiveEntry", "last_preview", "read_live"]
