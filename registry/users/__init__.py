"""Users and groups, where no other application keeps them."""
