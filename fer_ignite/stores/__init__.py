"""Object stores (`s3://`, `gs://` and what else fsspec opens): access and cached downloads."""
