[inputs: ["{mix,.formatter,run}.exs", "{config,lib,test}/**/*.{ex,exs}"]]
