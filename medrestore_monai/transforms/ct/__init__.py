"""CT: noise, its measure in an image, the fast and the exact simulation of a low dose, and the mean that is kept."""
