"""All interleavings of a litmus scenario within bounds: proved clean, or the shortest way it breaks."""
