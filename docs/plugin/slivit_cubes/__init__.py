"""A plugin of SLIViT for fastai. Importing its modules registers what is in them."""
