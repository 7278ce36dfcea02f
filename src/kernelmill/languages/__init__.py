"""Kernel languages: source becomes something the child can load; one file each, with a guide beside it."""
