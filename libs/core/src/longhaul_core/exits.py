"""Exit codes of the services, as in sysexits.h, so that scripts and supervisors can tell them apart."""

EXIT_OK = 0
EXIT_UNAVAILABLE = 69
EXIT_DEFECT = 70
EXIT_FULL = 74
EXIT_CONFIGURATION = 78
