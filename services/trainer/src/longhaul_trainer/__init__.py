"""The program that runs in the training pods."""
