"""The command line: one verb a file, found by folder. A face over `kernelmill.api`, no logic of its own."""
