// Package render draws a mesh as a picture on the server, in software: for
// lists, for mails, and for people who may see what a part looks like but must
// not have its geometry. It is no viewer: it draws one still picture, from one
// of a few sides, by orthographic projection, on one CPU.
//
// Start with Picture. Heat colours facets by a measure such as wall thickness,
// and Scale gives the legend. Guarded makes a picture safe to show.
//
// How: a z-buffer holds the nearest facet of every sample; then each sample is
// shaded (normals smooth across edges below 35°, two lights, sky and ground),
// darkened where the depths around it enclose it (ambient occlusion in screen
// space, after McGuire et al., The Alchemy Screen-Space Ambient Obscurance
// Algorithm, HPG 2011) and along creases and outlines, and averaged in linear
// light. O(facets + samples).
package render
