"""What every room may use and no room is about: errors, TOML files, HTML pages, whole files, logs, digests, ddmin."""
