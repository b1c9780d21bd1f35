"""One check a rule of the architecture (kstack.hw.rules), by topic; docs/rules.md lists them."""
