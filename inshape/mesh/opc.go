package mesh

import (
	"net/url"
	"path"
	"strings"
)

// The relationship types of 3MF (Core 1.4, appendix C).
const (
	relationModel  = "http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"
	relationTicket = "http://schemas.microsoft.com/3dmanufacturing/2013/01/printticket"

	contentTypesPart = "[Content_Types].xml"
	contentTypesNS   = "http://schemas.openxmlformats.org/package/2006/content-types"
	relationshipsNS  = "http://schemas.openxmlformats.org/package/2006/relationships"
	modelContentType = "application/vnd.ms-package.3dmanufacturing-3dmodel+xml"
)

// opcPackage is a zip archive by the Open Packaging Conventions (ECMA-376-2):
// parts with content types, and relationships between them.
type opcPackage struct {
	*archive
	defaults  map[string]string // content type by lower-case extension
	overrides map[string]string // by part key
}

func openPackage(data []byte, f Format, o Options) (*opcPackage, error) {
	a, err := openArchive(data, f, o)
	if err != nil {
		return nil, err
	}
	p := &opcPackage{archive: a, defaults: map[string]string{}, overrides: map[string]string{}}
	if !p.has(contentTypesPart) {
		return nil, refuse(f, Invalid, "", "%s is missing: this is no %s package", contentTypesPart, f)
	}
	doc, err := p.document(contentTypesPart)
	if err != nil {
		return nil, err
	}
	e, err := doc.root()
	if err != nil {
		return nil, err
	}
	if !e.is(contentTypesNS, "Types") {
		return nil, doc.refuse(Invalid, "the root is %.40q, not Types", e.local)
	}
	err = doc.children(func(e *element) error {
		kind, _ := e.get("", "ContentType")
		into, key := p.defaults, ""
		switch {
		case e.is(contentTypesNS, "Default"):
			extension, _ := e.get("", "Extension")
			key = strings.ToLower(string(extension))
		case e.is(contentTypesNS, "Override"):
			name, _ := e.get("", "PartName")
			into, key = p.overrides, partKey(string(name))
		default:
			return doc.refuse(Invalid, "element %.40q is not allowed here", e.local)
		}
		if key == "" || len(kind) == 0 {
			return doc.refuse(Invalid, "%s needs a name and a ContentType", e.local)
		}
		if into[key] != "" {
			return doc.refuse(Invalid, "the content type of %.80q is there twice", key)
		}
		into[key] = string(kind)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return p, doc.finish()
}

func (p *opcPackage) document(part string) (*document, error) {
	data, err := p.read(part)
	if err != nil {
		return nil, err
	}
	return newDocument(data, p.format, p.parts[partKey(part)].Name)
}

// contentType is empty for a part that has none.
func (p *opcPackage) contentType(part string) string {
	key := partKey(part)
	if kind := p.overrides[key]; kind != "" {
		return kind
	}
	return p.defaults[strings.TrimPrefix(path.Ext(key), ".")]
}

// checkImage refuses a picture that is missing or neither PNG nor JPEG.
func (p *opcPackage) checkImage(doc *document, what string, name []byte) error {
	if !p.has(string(name)) {
		return doc.refuse(Invalid, "%s %.80q is missing from the archive", what, name)
	}
	switch kind := p.contentType(string(name)); kind {
	case "image/png", "image/jpeg":
		return nil
	default:
		return doc.refuse(Invalid, "%s %.80q is of type %.60q, neither PNG nor JPEG", what, name, kind)
	}
}

// relationships gives the targets by type of the part's relationships ("": of the
// package), all of which must be parts of this package.
func (p *opcPackage) relationships(part string) (map[string][]string, error) {
	dir, base := path.Split(strings.TrimPrefix(part, "/"))
	name := dir + "_rels/" + base + ".rels"
	if !p.has(name) {
		return nil, nil
	}
	doc, err := p.document(name)
	if err != nil {
		return nil, err
	}
	e, err := doc.root()
	if err != nil {
		return nil, err
	}
	if !e.is(relationshipsNS, "Relationships") {
		return nil, doc.refuse(Invalid, "the root is %.40q, not Relationships", e.local)
	}
	targets := map[string][]string{}
	seen := map[string]bool{}
	err = doc.children(func(e *element) error {
		if !e.is(relationshipsNS, "Relationship") {
			return doc.refuse(Invalid, "element %.40q is not allowed here", e.local)
		}
		target, _ := e.get("", "Target")
		mode, _ := e.get("", "TargetMode")
		kind, _ := e.get("", "Type")
		id, _ := e.get("", "Id")
		u, err := url.Parse(string(target))
		switch {
		case err != nil || len(target) == 0:
			return doc.refuse(Invalid, "%.80q is no part name", target)
		case len(id) == 0 || len(kind) == 0:
			return doc.refuse(Invalid, "the relationship to %.80q has no Id or no Type", target)
		case u.IsAbs() || u.Host != "" || strings.EqualFold(string(mode), "External"):
			return doc.refuse(Invalid, "%.80q is outside of the package; a 3MF holds all that it needs", target)
		case seen[string(id)]:
			return doc.refuse(Invalid, "relationship %.80q is there twice", id)
		}
		seen[string(id)] = true
		to := u.Path
		if !strings.HasPrefix(to, "/") {
			to = path.Join("/", dir, to)
		}
		if !p.has(to) {
			return doc.refuse(Invalid, "part %.80q is named and missing from the archive", target)
		}
		if string(kind) == relationTicket && len(targets[relationTicket]) > 0 {
			return doc.refuse(Invalid, "a part has more than one print ticket")
		}
		targets[string(kind)] = append(targets[string(kind)], p.parts[partKey(to)].Name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return targets, doc.finish()
}
