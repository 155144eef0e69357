"""The cleaned data set of a run as tables and folders of images, and bought labels that are offered to clusters."""
