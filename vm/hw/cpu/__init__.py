"""One CPU: its instructions, event delivery, registers of models and debugging."""
