"""The usual job endpoint, as tutorials have it: a sync SQLAlchemy insert, then `apply_async`. Measured against ours.

It knows no keys, no validation of what is asked for, no idempotency and no events, and loses the job when it dies
between the insert and the message.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from celery import Celery
from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import JSON, DateTime, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

engine = create_engine(os.environ["STOCK_DATABASE_URL"], pool_size=8, max_overflow=8)
make_session = sessionmaker(engine)
queue = Celery("stock", broker=os.environ["STOCK_REDIS_URL"])
app = FastAPI()


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    kind: Mapped[str] = mapped_column(String(32))
    model: Mapped[str] = mapped_column(String(64))
    status: Mapped[str] = mapped_column(String(16), default="queued", index=True)
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    info: Mapped[dict[str, str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC), index=True)


class JobIn(BaseModel):
    kind: str
    model: str
    params: dict[str, Any]
    metadata: dict[str, str] = {}


class JobOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: uuid.UUID
    kind: str
    model: str
    status: str
    params: dict[str, Any]
    created_at: datetime


@queue.task(name="stock.render")  # type: ignore[untyped-decorator]
def render(job_id: str) -> None:
    """Never run: only the submission is measured."""


def session() -> Iterator[Session]:
    with make_session() as opened:
        yield opened


@app.get("/healthz")
def healthz() -> dict[str, str]:
    Base.metadata.create_all(engine)
    return {"status": "ok"}


@app.post("/api/v1/jobs", status_code=201, response_model=JobOut)
def create_job(body: JobIn, db: Annotated[Session, Depends(session)]) -> Job:
    job = Job(kind=body.kind, model=body.model, params=body.params, info=body.metadata)
    db.add(job)
    db.commit()
    db.refresh(job)
    render.apply_async(args=[str(job.id)])
    return job
