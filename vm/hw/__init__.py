"""The hardware, one part a file. Nothing here knows a policy, a scenario, a guest or a tool."""
