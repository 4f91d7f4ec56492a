"""From a folder of images and masks to configs that train."""
