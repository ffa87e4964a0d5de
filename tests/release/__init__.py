"""`make release`: what is given to users, made from the last commit and tried."""
