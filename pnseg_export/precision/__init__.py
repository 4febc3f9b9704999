"""The same networks in half precision and in 8-bit integers, made from a bundle's float32 graphs."""
