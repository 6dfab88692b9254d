"""PET: noise, the fast and the exact simulation of few counts, and the activity that is kept."""
