"""Long runs: mutants of every policy, and ten thousand schedules without a false alarm. `make nightly`."""
