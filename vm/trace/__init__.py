"""Instruction-level traces of recordings: made by replay, kept in Parquet, asked by DuckDB."""
