package mesh

import (
	"archive/zip"
	"bufio"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// WriteThreeMF writes a 3MF package with one object, in millimetres;
// coordinates are exact.
func WriteThreeMF(w io.Writer, m *Mesh, name string) error {
	z := zip.NewWriter(w)
	var failed error
	part := func(name string, write func(b *bufio.Writer)) {
		if failed != nil {
			return
		}
		out, err := z.Create(name)
		if err != nil {
			failed = err
			return
		}
		b := bufio.NewWriterSize(out, 1<<16)
		b.WriteString(xml.Header)
		write(b)
		failed = b.Flush()
	}
	part("[Content_Types].xml", func(b *bufio.Writer) {
		b.WriteString(`<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">` +
			`<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>` +
			`<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/></Types>`)
	})
	part("_rels/.rels", func(b *bufio.Writer) {
		b.WriteString(`<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">` +
			`<Relationship Target="/3D/3dmodel.model" Id="rel0" Type="` + relationModel + `"/></Relationships>`)
	})
	part("3D/3dmodel.model", func(b *bufio.Writer) {
		fmt.Fprintf(b, `<model unit="millimeter" xmlns="%s"><resources><object id="1" type="model" name="`, coreNS)
		xml.EscapeText(b, []byte(name))
		b.WriteString(`"><mesh><vertices>` + "\n")
		var buf []byte
		for _, v := range m.Vertices {
			buf = append(buf[:0], `<vertex x="`...)
			buf = strconv.AppendFloat(buf, v[0], 'g', -1, 64)
			buf = append(buf, `" y="`...)
			buf = strconv.AppendFloat(buf, v[1], 'g', -1, 64)
			buf = append(buf, `" z="`...)
			buf = strconv.AppendFloat(buf, v[2], 'g', -1, 64)
			b.Write(append(buf, "\"/>\n"...))
		}
		b.WriteString("</vertices><triangles>\n")
		for _, f := range m.Facets {
			fmt.Fprintf(b, "<triangle v1=\"%d\" v2=\"%d\" v3=\"%d\"/>\n", f[0], f[1], f[2])
		}
		b.WriteString(`</triangles></mesh></object></resources><build><item objectid="1"/></build></model>`)
	})
	if err := errors.Join(failed, z.Close()); err != nil {
		return fmt.Errorf("write 3MF: %w", err)
	}
	return nil
}
