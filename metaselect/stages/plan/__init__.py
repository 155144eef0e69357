"""What further labels would bring, before they are bought."""
