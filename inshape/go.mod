module inshape

go 1.26.0

require (
	github.com/govalues/decimal v0.1.36
	go.yaml.in/yaml/v4 v4.0.0
)
