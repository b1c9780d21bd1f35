"""Translation: the page walk, what is cached of it, and what a softmmu may hold."""
