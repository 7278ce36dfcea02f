"""What is copied into every export, verbatim. Standard library and torch only; never imported by kernelmill itself."""
