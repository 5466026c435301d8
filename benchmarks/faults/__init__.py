"""What kills, interrupts and full disks do to the files that commands write: python -m benchmarks.faults."""
