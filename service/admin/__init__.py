"""What an operator does with the data folder, beside a running server or without one."""
