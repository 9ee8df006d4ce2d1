module inshape

go 1.26.0
