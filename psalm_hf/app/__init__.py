"""The page in the browser, `psalm app`. Only the modules `page` and `*_tab` import gradio; what they do stands in the others."""
