"""What follows: deterministic stage execution, attempts, tasks, repairs. No I/O, no clock, no store."""
