"""One check a rule of the architecture (vm.hw.rules), by topic; docs/rules.md lists them."""
