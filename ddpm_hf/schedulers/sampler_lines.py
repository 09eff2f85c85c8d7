"""What each named sampler is, in a line for those who choose one."""

SAMPLER_LINES = {
    "the model's own": "As the model was saved, with the solvers or plans that were fitted to it, if it has any.",
    "ddpm": "The first one: noise at every step, with the small variance; needs many steps.",
    "ddpm-large": "DDPM with the large variance; for all or nearly all of the steps.",
    "ddim": "No noise on the way: the same noise gives the same image at any number of steps.",
    "iddpm": "DDPM with the variance that the network has learned.",
    "analytic-ddpm": "DDPM with the best single variance of each step, from measurements of this network.",
    "analytic-ddim": "DDIM with the best single variance of each step, from measurements of this network.",
    "dct-ddpm": "DDPM with the best variance of each spatial frequency and step, from measurements; images only.",
    "dct-ddim": "DDIM with the best variance of each spatial frequency and step, from measurements; images only.",
    "npr-ddpm": "DDPM with the variance of each pixel, predicted from the squared residual.",
    "npr-ddim": "DDIM with the variance of each pixel, predicted from the squared residual.",
    "sn-ddpm": "DDPM with the variance of each pixel, predicted from the squared noise.",
    "sn-ddim": "DDIM with the variance of each pixel, predicted from the squared noise.",
    "ocm-ddpm": "DDPM with the variance of each pixel, predicted from the network's Jacobian.",
    "ocm-ddim": "DDIM with the variance of each pixel, predicted from the network's Jacobian.",
    "ddim-2m": "DDIM that extrapolates from its last two predictions; good in 10 to 25 steps of any model.",
    "ddpm-2m": "The same with noise at every step; good in 25 to 100 steps.",
    "ddim-2m-pc": "The same, and each step is corrected by the next prediction.",
}
