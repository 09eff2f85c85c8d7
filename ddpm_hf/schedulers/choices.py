"""The names that options of a scheduler are chosen from; the command line reads them without waiting for torch."""

FIXED_VARIANCE_TYPES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log")
LEARNED_VARIANCE_TYPES = ("learned", "learned_range")
COVARIANCE_HEADS = ("npr", "sn", "ocm")
MEASURED_COVARIANCE_TYPES = ("analytic", "dct")
COVARIANCE_TYPES = (*MEASURED_COVARIANCE_TYPES, *COVARIANCE_HEADS)
# Kinds of variance heads; a scheduler with the `variance_type` of the same name reads the head.
VARIANCE_HEADS = ("learned_range", *COVARIANCE_HEADS)
VARIANCE_TYPES = (*FIXED_VARIANCE_TYPES, *LEARNED_VARIANCE_TYPES, *COVARIANCE_TYPES)

STOCK_SPACINGS = ("leading", "linspace", "trailing")
OWN_SPACINGS = ("quadratic", "logsnr", "karras", "optimal")
