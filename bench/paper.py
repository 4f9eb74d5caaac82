"""Figures of the paper (tables 1 and 2): 200 MHz Pentium Pro, 100 Mbit/s Ethernet, and Myrinet with Fast Messages."""

SIZES = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
RTT = {     # us
    "unintercepted": (265, 294, 362, 470, 753, 1104, 2013, 3804, 7569),
    "thin": (316, 318, 449, 563, 808, 1152, 2094, 3958, 8081),
    "thick": (538, 577, 655, 773, 1066, 1603, 2424, 4458, 8459),
    "ring": (37, 47, 65, 100, 181, 250, 373, 738, 1367),
}
BW = {      # MB/s
    "unintercepted": (1.58, 2.97, 5.94, 9.24, 9.46, 9.95, 9.89, 9.92, 9.30),
    "thin": (1.48, 2.77, 6.23, 8.46, 9.42, 9.89, 9.89, 9.94, 9.52),
    "thick": (0.81, 1.49, 2.59, 3.95, 5.74, 8.63, 9.81, 9.96, 9.30),
    "ring": (12.20, 21.02, 31.06, 40.60, 40.07, 43.14, 46.67, 43.07, 44.05),
}


def ratio(what, variant, size):
    """To the unintercepted one; None at sizes that the paper has not."""
    table = RTT if what == "rtt" else BW
    if size not in SIZES:
        return None
    i = SIZES.index(size)
    return table[variant][i] / table["unintercepted"][i]
