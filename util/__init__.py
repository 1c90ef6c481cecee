"""What the scripts share. Four rooms (data, train, weights, deploy) over the modules here, which know none of them."""
