"""What stacks used and what policies cost."""
