"""Any Gymnasium environment whose robot takes motions of its hand: a mapping says what it shows and takes."""
