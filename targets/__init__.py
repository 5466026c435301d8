"""Where networks run: boards, their facts, and what a model takes there. Knows nothing of `toolchain`."""
