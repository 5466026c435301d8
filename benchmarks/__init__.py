"""Speed, memory and accuracy, measured beside the strongest rival at hand: see README.md."""
