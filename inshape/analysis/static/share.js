// A link is shown with the shop's address, so that it can be sent as it is.
document.querySelectorAll("[data-path]").forEach((one) => { one.textContent = location.origin + one.dataset.path; });
