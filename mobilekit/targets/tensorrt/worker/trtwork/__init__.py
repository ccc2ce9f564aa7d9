"""The program's parts."""
