"""How good labels are: agreement between annotators, and the share of wrong given labels."""
