"""The commands: one module each, heavy imports inside `main(argv)`."""
