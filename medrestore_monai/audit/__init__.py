"""Is a result to be trusted: noise, sharpness, bias, scope and faithfulness, and a page that shows them."""
