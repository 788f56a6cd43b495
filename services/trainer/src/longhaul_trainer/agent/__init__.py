"""The first process of a training pod: keeps one worker a GPU, speaks to the controller. Never imports torch."""
