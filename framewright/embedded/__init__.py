"""Starts Postgres, Valkey and S3 from wheels: `start(data_dir)`, and the servers one by one."""

from framewright.embedded.datadir import DataDir, default_data_dir
from framewright.embedded.launch import Elsewhere, Ports, Servers, start
from framewright.embedded.postgres import Postgres
from framewright.embedded.s3 import S3
from framewright.embedded.valkey import Valkey

__all__ = ["S3", "DataDir", "Elsewhere", "Ports", "Postgres", "Servers", "Valkey", "default_data_dir", "start"]
