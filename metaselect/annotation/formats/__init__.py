"""Exchange formats, one file each: how samples go out to an annotation tool and answers come back."""
