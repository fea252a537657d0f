"""One file for each facility of the kernel that graced uses. No decision is made here."""
